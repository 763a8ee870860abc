"""The post-dominator tree of a graph: for each call, the next call that all paths from it to the end share.

One backward pass intersects each call's users in the tree built so far (Cooper, Harvey and Kennedy, "A Simple, Fast
Dominance Algorithm", 2001); jump pointers (Myers, "An Applicative Random-Access Stack", 1983) make each intersection
logarithmic.
"""

from collections.abc import Iterable

from kerassplit.graph.model_graph import Graph


class PostDominators:
    """The post-dominator tree of a graph's calls.

    Attributes:
        parent: The immediate post-dominator of each call: the nearest call on all paths from it to the end. The number
            of calls stands for the end itself.
    """

    def __init__(self, graph: Graph):
        end = len(graph.calls)
        self.parent = [end] * (end + 1)
        self._depth = [0] * (end + 1)
        self._jump = [end] * (end + 1)
        for call in range(end - 1, -1, -1):
            users = [user for tensor in graph.calls[call].outputs for user in graph.tensors[tensor].users]
            parent = self.meet(users) if users else end
            self.parent[call] = parent
            self._depth[call] = self._depth[parent] + 1
            jump, far = self._jump[parent], self._jump[self._jump[parent]]
            equal = self._depth[parent] - self._depth[jump] == self._depth[jump] - self._depth[far]
            self._jump[call] = far if equal else parent

    def add_up(self, values: list[int]) -> None:
        """Adds to the value of each call those of all calls in its subtree. The last value is that of the end."""
        for call, parent in enumerate(self.parent[:-1]):
            values[parent] += values[call]

    def meet(self, calls: Iterable[int]) -> int:
        """Returns the nearest common post-dominator of these calls, each of which counts as its own."""
        depth, parent, jump = self._depth, self.parent, self._jump
        iterator = iter(calls)
        one = next(iterator)
        for other in iterator:
            while one != other:
                if depth[one] < depth[other]:
                    one, other = other, one
                if depth[one] > depth[other]:
                    one = jump[one] if depth[jump[one]] >= depth[other] else parent[one]
                elif jump[one] != jump[other]:
                    one, other = jump[one], jump[other]
                else:
                    one, other = parent[one], parent[other]
        return one


def subtrees(tree: PostDominators) -> tuple[list[int], list[int]]:
    """Returns the preorder position of each call in the tree, and the size of its subtree."""
    end = len(tree.parent) - 1
    size = [1] * (end + 1)
    tree.add_up(size)
    entry = [0] * (end + 1)
    following = [1] * (end + 1)
    for call in range(end - 1, -1, -1):
        parent = tree.parent[call]
        entry[call] = entry[parent] + following[parent]
        following[parent] += size[call]
    return entry, size
