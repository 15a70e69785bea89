"""Every named site and factor of a program, found without running it.

One static pass that collects addresses, shapes and contexts, so that whatever is wrong with
a generative function (a repeated address, an anonymous draw, a branch that `vmap` turned
into a `select`) is said before anything runs, and so that a guide and a model are compared
as wholes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from estimand.errors import EstimandError, error
from estimand.transforms.interpret import Path, address
from estimand.transforms.jaxprs import Equation, Jaxpr, close, scopes, subjaxprs
from estimand.transforms.primitives import Estimated, Site, estimated_p, mark_p, sample_p
from estimand.transforms.sources import source_of


@dataclass(frozen=True)
class Found:
    """A named site or factor: where it is and what a choice for it looks like.

    `shape` has the steps of enclosing scans first, then lanes, batch and event axes.
    `branches` lists the enclosing branches as (path of the cond, branch).
    """

    address: str
    source: str
    shape: tuple[int, ...]
    dtype: Any
    branches: tuple[tuple[Path, int], ...]
    site: Site | None  # None for a factor
    leaves: tuple[Any, ...] = ()  # the parameters, as atoms of its equation

    def exclusive(self, other: "Found") -> bool:
        """Whether at most one of the two is reached in a run."""
        mine = dict(self.branches)
        return any(path in mine and mine[path] != i for path, i in other.branches)


def survey(jaxpr: Jaxpr, owner: str) -> list[Found]:
    """The named sites and factors of a generative function, in program order."""
    found = list(_walk(jaxpr, owner, (), (), (), ()))
    by_address: dict[str, list[Found]] = {}
    for item in found:
        for other in by_address.setdefault(item.address, []):
            _check_pair(item, other, owner)
        by_address[item.address].append(item)
    for item in found:
        for outer in parents(item.address):
            if outer in by_address:
                raise error(
                    f"address {item.address!r} ({item.source})",
                    f"{outer!r} is both a choice and a group of choices in {owner}",
                    expected="an address that is not a prefix of another",
                    got=f"{outer!r} at {by_address[outer][0].source} as well",
                    remedy="rename one of the two",
                )
    return found


def parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def _walk(
    jaxpr: Jaxpr,
    owner: str,
    path: Path,
    scope: tuple[str, ...],
    steps: tuple[int, ...],
    branches: tuple[tuple[Path, int], ...],
) -> Iterator[Found]:
    for i, eqn in enumerate(close(jaxpr).jaxpr.eqns):
        here, around = (*path, i), (*scope, *scopes(eqn))
        if eqn.primitive is sample_p:
            yield _found_site(eqn, owner, around, steps, branches)
        elif eqn.primitive is estimated_p:
            law: Estimated = eqn.params["law"]
            if law.selected:
                raise _selected(law.where, owner)
            for item in law.sites:
                name, shape = address(around, item.address), (*steps, *law.lanes, *item.shape)
                yield replace(item, address=name, shape=shape, branches=branches)
        elif eqn.primitive is mark_p and eqn.params["mark"].kind == "factor":
            mark, aval = eqn.params["mark"], eqn.invars[0].aval
            if mark.selected:
                raise _selected(f"factor {mark.name!r} ({mark.source})", owner)
            name = address(around, mark.name)
            shape = (*steps, *aval.shape)
            yield Found(name, mark.source, shape, aval.dtype, branches, None)
        elif eqn.primitive.name == "cond":
            for j, body in enumerate(eqn.params["branches"]):
                yield from _walk(body, owner, (*here, j), around, steps, (*branches, (here, j)))
        elif eqn.primitive.name == "while":
            _refuse_while(eqn, owner, around)
        else:
            inner = (*steps, eqn.params["length"]) if eqn.primitive.name == "scan" else steps
            for body in subjaxprs(eqn):
                yield from _walk(body, owner, here, around, inner, branches)


def _found_site(
    eqn: Equation, owner: str, scope: tuple[str, ...], steps: Any, branches: Any
) -> Found:
    site: Site = eqn.params["site"]
    if site.name is None:
        what = f"a draw of {site.label}" if site.label else "an anonymous draw"
        raise error(
            site.where,
            f"{what} inside the generative function {owner} has no density there",
            expected="every random value of a generative function under a name",
            got=f"{site.distribution} drawn by {'simulate' if site.label else 'em.draw'}",
            remedy="name it with em.sample, and integrate it out with a marginal where only the "
            "other choices matter",
        )
    if site.selected:
        raise _selected(site.where, owner)
    aval = eqn.outvars[0].aval
    shape = (*steps, *aval.shape)
    name = address(scope, site.name)
    return Found(name, site.source, shape, aval.dtype, branches, site, tuple(eqn.invars))


def _selected(where: str, owner: str) -> EstimandError:
    return error(
        where,
        f"it is in a branch of a cond, but jax.vmap turned the cond into a select, so {owner} "
        "would count it in every lane, whichever branch was taken",
        expected="a cond whose predicate is not batched by a vmap inside the program",
        got="a vmap of a cond with a batched predicate",
        remedy="put the vmap outside of the generative function, or select the distribution's "
        "parameters (or the log weight) instead of branching",
    )


def _check_pair(item: Found, other: Found, owner: str) -> None:
    here, there = f"{item.source}", f"{other.source}"
    if not item.exclusive(other):
        raise error(
            f"address {item.address!r}",
            f"it is used twice in {owner}",
            expected="one site or factor per address",
            got=f"one at {there} and one at {here}",
            remedy="rename one of them, or put them in different scopes with em.scope",
        )
    if (item.shape, item.dtype) != (other.shape, other.dtype):
        raise error(
            f"address {item.address!r}",
            f"its exclusive branches in {owner} disagree, though they are one choice",
            expected=f"{other.dtype}{list(other.shape)} as at {there}",
            got=f"{item.dtype}{list(item.shape)} at {here}",
            remedy="give them one shape and dtype, or two addresses",
        )


def _refuse_while(eqn: Equation, owner: str, scope: tuple[str, ...]) -> None:
    for body in subjaxprs(eqn):
        for inner in _walk(body, owner, (), scope, (), ()):
            raise error(
                f"address {inner.address!r} ({inner.source})",
                f"it is inside a while_loop ({source_of(eqn)}) of {owner}, whose number of "
                "steps is not known, so its choices have no shape",
                expected="named sites in loops with a static number of steps",
                got="a named site in a while_loop",
                remedy="use lax.scan or a fori_loop with static bounds",
            )
