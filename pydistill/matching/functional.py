"""A network's loss as a function of a flat parameter vector and a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import TensorWeakRef

from pydistill._util.format import first_line
from pydistill._util.memory import is_out_of_memory
from pydistill.errors import InputError
from pydistill.matching._watch import Watch
from pydistill.matching.loss import student_loss
from pydistill.matching.second_derivative import check_leaves, checked_gradient, derivative_errors
from pydistill.nn.flat import ParameterLayout, layout_of
from pydistill.nn.rebind import rebound


class FunctionalStudent:
    """ℓ(θ, X, Y) of a module whose parameters are replaced by the flat vector θ [P].

    The module runs as a copy with its own parameters for each step: code that runs after the step's forward pass, such
    as a checkpoint's second forward pass, computes with the parameters of that step, and the module itself never
    changes. A copy continues with the attributes that the previous step left.

    A module that changes its buffers while it runs (batch norm's running statistics in training mode) is refused: it is
    not a function of θ and the batch alone, so the backward sweep could not rerun its steps.

    Attributes:
        model: the caller's module.
        layout: the names and shapes of its parameters.

    Raises:
        InputError: the module is compiled to TorchScript, has no parameters to train or lazy ones, hooks on their
            gradients, or keeps batch statistics in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats:
                raise InputError(
                    f"module '{name}' is a batch norm in training mode whose running statistics change at every step; "
                    "use an instance norm, track_running_stats=False, or model.eval() before matching"
                )
            if isinstance(module, torch.jit.ScriptModule):
                raise InputError(
                    f"module '{name}' is TorchScript, whose parameters cannot be replaced; pass the Python module"
                )
        for name, parameter in model.named_parameters():
            if is_lazy(parameter):
                raise InputError(f"parameter '{name}' has no shape yet; run the module once before matching")
            if parameter._backward_hooks:
                raise InputError(
                    f"parameter '{name}' has a hook on its gradient, which is not run for the student's parameters; "
                    "remove it before matching"
                )
        self.model = model
        self.layout: ParameterLayout = layout_of(model)
        parameters = list(model.parameters())
        is_frozen = [not parameter.requires_grad for parameter in parameters]
        if all(is_frozen):
            raise InputError(f"{self.name} has no parameters to train")
        self._frozen: Tensor | None = None  # [P], True where a parameter is frozen
        if any(is_frozen):
            self._frozen = torch.tensor(is_frozen).repeat_interleave(torch.tensor(self.layout.sizes))
        originals = (*model.named_parameters(), *model.named_buffers())
        # With the values, as the id of a tensor that is gone may be used again.
        self._originals = {id(value): (name, value) for name, value in originals}
        self._checked: set[tuple[torch.Size, bool]] = set()  # shapes of images, with or without a graph
        self._copy = model
        self._in_place: list[Tensor] = list(parameters)  # the parameters of `_copy`
        self._buffers: dict[str, tuple[Tensor, int]] = {}
        self._leaves: list[TensorWeakRef] = []  # of the steps' graphs; a later step may reach one that is alive

    @property
    def name(self) -> str:
        """The name of the module's class."""
        return type(self.model).__name__

    def gradient(
        self, theta: Tensor, images: Tensor, labels: Tensor, *, create_graph: bool = False, rehearse: bool = False
    ) -> Tensor:
        """Compute g = ∇_θ ℓ(θ, X, Y), [P], with zeros for frozen parameters.

        Args:
            theta: requires a gradient.
            create_graph: give g a graph, so that it can be differentiated in θ, X and Y; else it is a constant.

        Raises:
            InputError: the module cannot run on the images, or cannot be differentiated; checked once for each shape.
        """
        with torch.enable_grad():
            self._put_in_place(theta)
        with torch.enable_grad(), self.watching():
            loss = self._loss(theta, images, labels)

            @derivative_errors(self.name)
            def differentiated() -> Tensor | None:
                return torch.autograd.grad(loss, theta, create_graph=create_graph, allow_unused=True)[0]

            if (images.shape, create_graph) in self._checked:
                gradient = differentiated()
            else:
                self._checked.add((images.shape, create_graph))
                gradient = checked_gradient(loss, theta, differentiated, self.name, rehearse=rehearse)
            assert gradient is not None
            if self._frozen is None:
                return gradient
            self._frozen = self._frozen.to(gradient.device)
            return gradient.masked_fill(self._frozen, 0)

    def watching(self) -> Watch:
        """Return the context in which the module and its derivatives run."""
        return Watch(self.name, self._originals)

    def _put_in_place(self, theta: Tensor) -> None:
        """Make a copy of the module with the parameters θ."""
        first = self._copy is self.model
        parameters = list(self.layout.split(theta).values())
        self._copy = rebound(self._copy, zip(self._in_place, parameters, strict=True), own_tensors=first)
        self._in_place = parameters
        if first:
            self._buffers = self._snapshot()

    def _loss(self, theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        images, labels = (value.clone() if value.is_inference() else value for value in (images, labels))
        if not images.requires_grad:  # without it, code that is run again for the gradient would leave no trace
            images = images.detach().requires_grad_()
            self.track(images)
        version = theta._version
        try:
            logits = self._copy(images.clone())  # the module may overwrite its input
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            if theta._version == version:
                raise InputError(
                    f"{self.name} cannot run on images of shape {list(images.shape)}: {first_line(error)}"
                ) from error
        if theta._version != version:
            raise InputError(
                f"{self.name} writes to its parameters when it runs, which is no step of the student's training; "
                "compute with a function of the parameters instead"
            )
        _check_logits(logits, labels)
        return student_loss(logits, labels)

    def track(self, *leaves: Tensor) -> None:
        """Record leaves of a step's graph for `check_leaves`."""
        self._leaves = [leaf for leaf in self._leaves if leaf() is not None]
        self._leaves += map(TensorWeakRef, leaves)

    def check_leaves(self, gradient: Tensor, *own: Tensor) -> None:
        """Raise InputError if a step's gradient depends on a leaf of another step, through a tensor that was stored."""
        alive = [leaf() for leaf in self._leaves]
        others = [leaf for leaf in alive if leaf is not None and all(leaf is not mine for mine in own)]
        check_leaves(gradient, others, self.name)

    def check_unchanged(self) -> None:
        """Raise InputError if the module changed a buffer while the student trained."""
        now = self._snapshot()
        for name in sorted(self._buffers.keys() | now.keys()):
            before, after = self._buffers.get(name), now.get(name)
            # written in place, or replaced by another tensor
            if before is None or after is None or before[0] is not after[0] or before[1] != after[1]:
                raise InputError(
                    f"buffer '{name}' of {self.name} changed while the student trained, "
                    "so its steps cannot be run again; call model.eval(), remove what updates it, or run the model "
                    "once before, if that makes the buffer"
                )

    def _snapshot(self) -> dict[str, tuple[Tensor, int]]:
        return {name: (buffer, buffer._version) for name, buffer in self._copy.named_buffers()}


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
        raise InputError(
            f"the model must return logits [B, K] for B = {labels.shape[0]} images, not shape {list(logits.shape)}"
        )
    classes = logits.shape[1]
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise InputError(f"label rows have {labels.shape[1]} classes, the model's logits {classes}")
    elif labels.device.type == "cpu" and int(labels.max()) >= classes:
        raise InputError(f"hard labels must lie in [0, {classes - 1}] for {classes} classes, found {int(labels.max())}")
