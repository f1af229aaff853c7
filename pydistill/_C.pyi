"""The compiled module (csrc/bindings): the engine's classes. It is absent if nothing was compiled."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_config() -> dict[str, Any]:
    """How this library was built."""

class Architecture:
    """A network that the engine runs, and its images' shape. Equal architectures have equal hashes."""

    def __init__(
        self,
        *,
        kind: str,
        channels: int,
        height: int,
        width: int,
        classes: int,
        units: int,
        depth: int,
        norm: str = "none",
        pooling: str = "none",
        eps: float = 0.0,
        first_padding: int = 0,
    ) -> None:
        """Describe a network.

        Args:
            kind: convnet or mlp.
            channels, height, width: of the images.
            classes: K.
            units: channels of the blocks, or hidden units of the layers.
            depth: blocks, or linear layers including the last.
            norm: instance or none.
            pooling: average, max or none.
            eps: of the norm.
            first_padding: rings of zeros around the images in the first convolution.

        Raises:
            ValueError: a size is below 1, or a name is not known.
        """
    kind: str
    channels: int
    height: int
    width: int
    classes: int
    units: int
    depth: int
    norm: str
    pooling: str
    eps: float
    first_padding: int

class Student:
    """A network as a function of a flat parameter vector, with the memory of its passes (csrc/engine/student.h).

    One call at a time runs in a student; calls of other threads wait. The GIL is released meanwhile.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        like: Tensor,
        largest_batch: int,
        convolutions: str = "builtin",
        slice_bytes: int = 0,
    ) -> None:
        """Allocate a student.

        Args:
            like: a tensor of its dtype and on its device.
            largest_batch: the most images of a batch.
            convolutions: builtin (the engine's own on a CPU, PyTorch's on a GPU) or aten (PyTorch's).
            slice_bytes: memory of a slice of the batch; 0 leaves it to the engine.
        """
    def parameters(self) -> int:
        """P, the number of parameters."""
    def gradient(self, theta: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(g [P], the images' shares of the mean loss [B], logits [B, K]) at theta [P].

        Raises:
            ValueError: an argument has the wrong shape, dtype or device.
        """
    def classify(self, theta: Tensor, images: Tensor) -> Tensor:
        """The logits [B, K] at theta [P]."""
    def adjoint(
        self,
        theta: Tensor,
        direction: Tensor,
        images: Tensor,
        labels: Tensor,
        product: bool = True,
        image_gradients: bool = True,
        label_gradients: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """(⟨g, v⟩ [], H v [P], ∂⟨g, v⟩/∂X [B, C, H, W], ∂⟨g, v⟩/∂Y [B, K]) along v = `direction` [P]; None for what
        was not asked for."""

class BatchTables:
    """Where the steps of one kind find their batches: row k is that of step k."""

    def __init__(
        self,
        *,
        image_index: Tensor,
        label_index: Tensor,
        labels: Tensor,
        label_gradients: Tensor | None = None,
        operations: Tensor | None = None,
        parameters: Tensor | None = None,
    ) -> None: ...
    @property
    def image_index(self) -> Tensor:
        """[N, B] int64: rows of the images."""
    @property
    def label_index(self) -> Tensor:
        """[N, B] int64: rows of the labels."""
    @property
    def labels(self) -> Tensor:
        """[n] int64, or [n, K]."""
    @property
    def label_gradients(self) -> Tensor | None:
        """[n, K]; None for class numbers."""
    @property
    def operations(self) -> Tensor | None:
        """[N, L] int64; None without augmentation."""
    @property
    def parameters(self) -> Tensor | None:
        """[N, B or 1, width]; None without augmentation."""

class Program:
    """The steps of a student's training, forward and backward, by tables (csrc/engine/program.h)."""

    def __init__(
        self,
        student: Student,
        *,
        step: Tensor,
        target: Tensor,
        lr: Tensor,
        sums: Tensor,
        images: Tensor,
        image_gradients: Tensor,
        adjoint: Tensor,
        lr_gradient: Tensor,
        batches: Sequence[BatchTables],
        batches_of_step: Sequence[int],
        graphs: bool,
        weights: Tensor | None = None,
    ) -> None:
        """Check the tables, whose memory the program uses from now on.

        Args:
            step: the counter k, int64 [].
            target: θ*, [P].
            lr: α_k, [N].
            sums: (Σ w|θ_k − θ*|, Σ w(θ_k − θ*)²), float64 [N + 1, 2].
            images, image_gradients: [n, C, H, W].
            adjoint: λ, [P].
            lr_gradient: [N].
            batches: the kinds of batches.
            batches_of_step: for each of the N steps, which of them it reads.
            graphs: record steps as CUDA graphs, on a GPU.
            weights: w of the sums, [P]; None for w = 1.

        Raises:
            ValueError: a table has the wrong shape, dtype or device.
        """
    def set_points(self, points: Tensor) -> None:
        """Read and write θ_0, θ_1, … in `points` [n, P]. `train` to step `last` needs n > last, `go_back` n ≥ last.

        Only the address is stored: the caller keeps the tensor alive until the last call that uses it has ended.
        """
    def train(self, first: int, last: int) -> None:
        """Run the steps first … last − 1 forward."""
    def go_back(self, last: int, first: int, outputs: Sequence[int]) -> None:
        """Run the steps last − 1 … first backward; outputs[k − first] says what step k computes."""
    def counts(self) -> tuple[int, int, int]:
        """How many steps ran directly, were recorded as a CUDA graph, and were replayed."""
    def obstacle(self) -> str:
        """Why a step was not recorded as a CUDA graph; empty if none failed."""
