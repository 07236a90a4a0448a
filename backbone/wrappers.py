"""Find a network's tensors in what training scripts save: containers, prefixes of wrappers, moving averages of the weights.

``torch.compile``, DataParallel, FSDP, Lightning and timm each put names in front of a network's own, and a file may hold
several networks. One is taken, with its own names; what was chosen between is said.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# entries that hold the weights, in the order in which they are looked for
_CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "network", "model_state", "weights", "params", "blobs")
# wrappers that may stand anywhere in a name: DataParallel and DistributedDataParallel, torch.compile, FSDP, checkpointing
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# attributes that networks are kept under, dropped where all names of a file without a known network have them
_ATTRIBUTES = ("model.", "net.", "network.", "backbone.", "encoder.")
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|average|averaged|avg|swa)(?:[._]|$)", re.IGNORECASE)
_OPTIMIZER = "optim"  # whose exp_avg is no average of weights
_COUNTER = "n_averaged"  # of torch's AveragedModel
_DEPTH = 4  # of nested containers
# A network by two of its names: "root" is what stands in front of them. Detectors first: they contain a network.
_MARKERS = (
    (r"rpn\.conv\.weight", "roi_head."),  # this project's detectors
    (r"backbone\.body\.conv1\.weight", "rpn.head."),  # torchvision's
    (r"proposal_generator\.rpn_head\.conv\.weight", "roi_heads."),  # detectron2's
    (r"(?:backbone\.(?:bottom_up\.)?)?stem\.conv1\.weight", ""),  # detectron2's networks, inside others too
    (r"conv1\.weight", "layer1."),  # torchvision's networks
    (r"conv1_w", "res2_"),  # Caffe2's
)
_PATTERNS = tuple((re.compile(rf"(|.*\.){name}"), companion) for name, companion in _MARKERS)
_DETECTORS = 3  # the first of them
_PARTS = ("trunk.", "backbone.", "roi_head.", "roi_heads.", "stem.")  # of detectors, where their network is


@dataclass(frozen=True)
class Found:
    """A network's tensors.

    Attributes:
        tensors: under the network's own names; those outside it keep theirs.
        notes: what was chosen between, each a sentence without the file's name.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Network:
    """A network in a file: the keys that lead to its container, all tensors there, the prefix of its own ones, and those of
    the other networks there."""

    path: tuple[str, ...]
    tensors: dict[str, Any]
    root: str
    detector: bool
    other_roots: tuple[str, ...]

    @property
    def where(self) -> str:
        return ".".join((*self.path, self.root.removesuffix("."))).strip(".") or "the file"

    @property
    def averaged(self) -> bool:
        return any(_AVERAGE.search(part) for part in (*self.path, self.root))

    @property
    def known(self) -> bool:
        """Whether it lies in containers that usually hold the weights."""
        return all(key in _CONTAINERS for key in self.path)

    def own(self) -> dict[str, Any]:
        """Return the network's tensors under its own names."""
        inner = tuple(root for root in self.other_roots if root.startswith(self.root))
        names = (name for name in self.tensors if name.startswith(self.root) and not name.startswith(inner))
        return {name.removeprefix(self.root): self.tensors[name] for name in names}

    def rest(self) -> dict[str, Any]:
        """Return what belongs to none of the container's networks: a classifier, a neck."""
        roots = (self.root, *self.other_roots)
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(roots)}


def find_tensors(content: Any, where: str) -> Found:
    """Return the tensors of the network in a file's content.

    Of several networks an exponential moving average is taken before the raw weights, and one in a usual container (model,
    state_dict, …) before others; networks of equal tensors are one.

    Args:
        content: of the file; nested dictionaries with tensors or arrays.
        where: names the file in errors.

    Raises:
        ValueError: no dictionary of tensors, several networks, or an array that is no tensor.
    """
    containers = list(_containers(content, (), set()))
    networks = [network for path, tensors in containers for network in _networks(path, tensors)]
    if not networks:
        return Found(_as_tensors(_plain(content, containers, where), where))
    averages = [network for network in networks if network.averaged]
    candidates = averages or networks
    candidates = [network for network in candidates if network.known] or candidates
    chosen = candidates[0]
    others = [network for network in candidates[1:] if not _equal(network.own(), chosen.own())]
    if others:
        listed = ", ".join(repr(network.where) for network in (chosen, *others))
        raise ValueError(
            f"{where} holds {len(others) + 1} networks: {listed}; save the one that is wanted in a file of its own"
        )
    tensors = chosen.own() if chosen.detector else chosen.rest() | chosen.own()
    return Found(_as_tensors(tensors, where), tuple(_notes(chosen, networks, content)))


def _notes(chosen: _Network, networks: list[_Network], content: Any) -> Iterator[str]:
    raw = [network for network in networks if not network.averaged]
    if chosen.averaged:
        if raw:
            yield f"the moving average of the weights ({chosen.where}) is taken, not the raw ones ({raw[0].where})"
        return
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(key, str) and isinstance(value, (dict, list)) and value and _AVERAGE.search(key):
            yield (
                f"its entry {key!r} holds no network that can be told by its names: the raw weights ({chosen.where}) are "
                "taken"
            )


def _containers(
    content: Any, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield all dictionaries that hold tensors, with wrappers' parts of their names removed."""
    if not isinstance(content, dict) or len(path) > _DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    tensors = {key: value for key, value in content.items() if isinstance(value, (Tensor, np.ndarray))}
    if tensors:
        yield path, _without_wrappers(tensors)
    usual = {key: i for i, key in enumerate(_CONTAINERS)}
    for key in sorted(content, key=lambda key: usual.get(key, len(usual))):
        if _OPTIMIZER not in str(key):
            yield from _containers(content[key], (*path, str(key)), seen)


def _without_wrappers(tensors: Mapping[Any, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = _WRAPPERS.sub("", str(key))
        if name.rpartition(".")[2] != _COUNTER:
            renamed[str(key) if name in renamed else name] = tensor
    return renamed


def _networks(path: tuple[str, ...], tensors: dict[str, Any]) -> list[_Network]:
    """Return the networks of a container; a detector's own network is a part of it."""
    detectors: dict[str, bool] = {}  # root -> whether it is a detector's
    for i, (pattern, companion) in enumerate(_PATTERNS):
        for match in filter(None, map(pattern.fullmatch, tensors)):
            root = match[1]
            of_detector = any(
                detectors[outer] and (root == outer or match[0].removeprefix(outer).startswith(_PARTS))
                for outer in detectors
                if match[0].startswith(outer)
            )
            if not of_detector and any(name.startswith(root + companion) for name in tensors):
                detectors.setdefault(root, i < _DETECTORS)
    return [
        _Network(path, tensors, root, detector, tuple(other for other in detectors if other != root))
        for root, detector in detectors.items()
    ]


def _plain(content: Any, containers: list[tuple[tuple[str, ...], dict[str, Any]]], where: str) -> dict[str, Any]:
    """Return the tensors of a file without a network that is known by its names: those in the usual containers, or all."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a dictionary of tensors, the file contains a {type(content).__name__}")
    usual = [tensors for path, tensors in containers if all(key in _CONTAINERS for key in path)]
    tensors = max(usual, key=len, default={})
    for prefix in _ATTRIBUTES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _as_tensors(tensors: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    try:
        return {name: torch.as_tensor(value) for name, value in tensors.items()}
    except (TypeError, ValueError) as error:  # an array of strings or objects
        raise ValueError(f"{where} contains an array that is not a tensor: {error}") from error


def _equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    try:
        return a.keys() == b.keys() and all(
            torch.equal(torch.as_tensor(tensor), torch.as_tensor(b[name])) for name, tensor in a.items()
        )
    except (TypeError, ValueError, RuntimeError):  # what has no equality: arrays of objects, sparse tensors
        return False
