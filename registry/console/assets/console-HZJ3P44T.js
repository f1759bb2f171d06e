import{a}from"./chunk-KSLKQZRB.js";import"./chunk-7XOUYJZI.js";import"./chunk-TCKZXHJS.js";import"./chunk-WOT6VMZA.js";export{a as announce};
