export function proofs(_root) {}
