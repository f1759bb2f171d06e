export function jobs(_root) {}
