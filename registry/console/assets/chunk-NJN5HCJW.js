import"./chunk-WOT6VMZA.js";function r(o){}export{r as proofs};
