export function uploads(_root) {}
