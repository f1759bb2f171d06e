import{a}from"./chunk-SQ36FOTF.js";import"./chunk-TCKZXHJS.js";import"./chunk-7XOUYJZI.js";import"./chunk-WOT6VMZA.js";export{a as announce};
