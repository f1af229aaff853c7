"""Trajectory matching on the digits as the published scripts do it: the whole graph of the student's training."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.examples.mtt_style.common import (
    ReparamModule,
    augment,
    get_dataset,
    get_network,
    parse,
    real_images,
    train_experts,
)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Distil; returns the images, the learning rate, the losses, and the seconds of all iterations."""
    torch.manual_seed(args.seed)
    images_all, labels_all = get_dataset(args)
    buffer = train_experts(args, images_all, labels_all)
    image_syn, label_syn = real_images(args, images_all, labels_all)
    image_syn.requires_grad_()
    syn_lr = torch.tensor(args.lr_teacher, dtype=image_syn.dtype, requires_grad=True)
    optimizer_img = torch.optim.SGD([image_syn], lr=args.lr_img, momentum=0.5)
    optimizer_lr = torch.optim.SGD([syn_lr], lr=args.lr_lr, momentum=0.5)
    batch_syn = args.batch_syn or len(image_syn)
    losses = []

    began = time.perf_counter()
    for it in range(args.Iteration):
        student_net = ReparamModule(get_network(args))
        student_net.train()
        expert_trajectory = buffer[it % len(buffer)]
        start_epoch = int(torch.randint(0, args.max_start_epoch, ()))
        starting_params = torch.cat([p.reshape(-1) for p in expert_trajectory[start_epoch]])
        target_params = torch.cat([p.reshape(-1) for p in expert_trajectory[start_epoch + args.expert_epochs]])

        student_params = [starting_params.clone().requires_grad_()]
        indices_chunks: list[torch.Tensor] = []
        for _ in range(args.syn_steps):
            if not indices_chunks:
                indices_chunks = list(torch.randperm(len(image_syn)).split(batch_syn))
            these_indices = indices_chunks.pop()
            x, this_y = image_syn[these_indices], label_syn[these_indices]
            if not args.no_aug:
                x = augment(x)
            ce_loss = F.cross_entropy(student_net(x, flat_param=student_params[-1]), this_y)
            grad = torch.autograd.grad(ce_loss, student_params[-1], create_graph=True)[0]
            student_params.append(student_params[-1] - syn_lr * grad)

        param_loss = F.mse_loss(student_params[-1], target_params, reduction="sum")
        param_dist = F.mse_loss(starting_params, target_params, reduction="sum")
        grand_loss = param_loss / param_dist

        optimizer_img.zero_grad()
        optimizer_lr.zero_grad()
        grand_loss.backward()
        optimizer_img.step()
        optimizer_lr.step()
        losses.append(grand_loss.item())

    seconds = time.perf_counter() - began
    return {"images": image_syn.detach(), "lr": syn_lr.item(), "losses": losses, "seconds": seconds}


if __name__ == "__main__":
    print(main(parse())["losses"])
