"""The network of perturbation effects."""

import torch

from infl.nn.perturbation import EffectNet


def test_an_unseen_node_uses_no_embedding_of_its_own():
    torch.manual_seed(0)
    net = EffectNet(3, 4).eval()
    net.adjacency.copy_(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    net.seen.copy_(torch.tensor([0.0, 1.0, 0.0]))
    one = torch.eye(3)
    before = net(one, torch.zeros(3, 4))
    with torch.no_grad():
        net.node.weight[0] += 1
    after = net(one, torch.zeros(3, 4))
    assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
