"""Graphs by name: are the names good, and does following the edges ever lead back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def find_cycle(parents: Mapping[str, Sequence[str]]) -> list[str] | None:
    """A cycle as the names along it, the first repeated at the end; None when there is none. Linear, and not recursive.

    `parents` names the parents of every node; parents that are no nodes themselves end a path.
    """
    done: set[str] = set()
    for start in parents:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        rest = [iter(parents[start])]
        while path:
            step = next(rest[-1], None)
            if step is None:
                done.add(path[-1])
                on_path.discard(path.pop())
                rest.pop()
            elif step in on_path:
                # From a parent back to the child that the search began with, so the names read in the order they run.
                return [*reversed(path[path.index(step) :]), path[-1]]
            elif step in parents and step not in done:
                path.append(step)
                on_path.add(step)
                rest.append(iter(parents[step]))
    return None
