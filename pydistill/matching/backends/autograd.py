"""Backend `autograd`: PyTorch differentiates the full unrolled graph, as the published loops do. The tests' oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from pydistill.matching.loss import matching_loss
from pydistill.matching.problem import Match, Problem
from pydistill.matching.selection import distance_from_sums, distance_sums, select_step


def match_autograd(problem: Problem) -> Match:
    """Unroll N steps with `create_graph=True` and back-propagate through all of them.

        θ_{k+1} = θ_k − α_k ∇_θ ℓ(θ_k, X_k, Y_k)

    With `gradient="truncated"` the inner gradient is taken at a constant θ_k, which drops the dependence of later steps
    on earlier images. Under `torch.no_grad` no graph is built.

    Memory grows with N: the graphs of all steps exist until `backward`. Derivatives: any order.
    """
    student, plan = problem.student, problem.plan
    differentiates = torch.is_grad_enabled()
    truncated = problem.gradient == "truncated"
    theta = problem.start.clone()  # the module may overwrite its parameters
    points = [theta]
    target, weights = problem.target.detach(), problem.distance_weights
    sums = [distance_sums(theta.detach(), target, weights)]
    for step in range(problem.steps):
        images, labels = plan.rows(plan.sources, step)
        images = plan.augmented(images, step)
        at = theta.detach().requires_grad_() if truncated or not theta.requires_grad else theta
        gradient = student.gradient(at, images, labels, create_graph=differentiates, rehearse=True)
        theta = theta - problem.step_lr(problem.lr, step) * gradient
        points.append(theta)
        sums.append(distance_sums(theta.detach(), target, weights))
    student.check_unchanged()
    distances: Tensor = distance_from_sums(torch.stack(sums), problem.distance)
    chosen = select_step(distances, problem.selection)
    weights = problem.loss_weights(points[chosen])
    loss = matching_loss(points[chosen], problem.start, problem.target, weights)
    return Match(loss, chosen, distances, "autograd", weights)
