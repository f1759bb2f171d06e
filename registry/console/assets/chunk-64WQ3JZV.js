import"./chunk-WOT6VMZA.js";function t(o){}export{t as jobs};
