import pytest

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter
from registry.generators.builtin import known_builtins, resolve_builtin
from registry.generators.sampling import adapter_of
from registry.lineage.service import read_shipped
from registry.storage import folder_manifest, manifest_digest
from verifier.network import Network


def test_every_builtin_is_whole_and_its_parts_belong_together() -> None:
    assert {"flowers-ldm@1", "flowers-ldm-128@1", "flowers-stylegan2@1"} <= set(known_builtins())
    for name in known_builtins():
        builtin = resolve_builtin(f"builtin:{name}")
        adapter = get_adapter(adapter_of(builtin.weights))
        adapter.check(builtin.weights)
        assert (builtin.weights.parent / "MODEL_CARD.md").is_file()
        assert builtin.lineage is not None
        assert read_shipped(builtin.lineage) is not None, "of another lineage network"
        if not adapter.schemes:
            continue
        assert builtin.basis is not None
        assert builtin.network is not None
        basis = Basis.load(builtin.basis)
        assert basis.model_digest == f"sha256:{manifest_digest(folder_manifest(builtin.weights))}"
        network = Network.load(builtin.network, device="cpu")
        assert (network.spec.basis, network.spec.bits) == (basis.digest, basis.bits)


@pytest.mark.parametrize("name", ["builtin:flowers-ldm", "builtin:flowers-ldm@999", "builtin:../../etc@1"])
def test_an_unknown_builtin_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError) as raised:
        resolve_builtin(name)
    assert "flowers-ldm@1" in raised.value.hint
