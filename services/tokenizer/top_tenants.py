"""Which tenants have metrics of their own: the busiest few. The names come from clients, so the number is bounded."""

NO_TENANT = "none"
OTHER_TENANTS = "other"

_MAX_LABEL_CHARS = 64
_CANDIDATES_PER_PLACE = 8
_AGE_EVERY = 4096
_TAKEOVER = 2
"""How many times as busy a tenant must be to take the place of another one: labels should not flap."""


class TopTenants:
    """Counts requests by the Space-Saving algorithm (Metwally et al., 2005) in bounded memory, recent ones for more."""

    def __init__(self, num_places: int) -> None:
        self._num_places = num_places
        self._counts: dict[str, int] = {}
        self._named: set[str] = set()
        self._num_seen = 0

    def label(self, tenant: str) -> str:
        """The label value for one more request of `tenant`: its name, `other`, or `none` where it has no name.

        A tenant that has lost its place starts a new series when it regains one; nothing is counted twice.
        """
        if not tenant:
            return NO_TENANT
        name = tenant[:_MAX_LABEL_CHARS]
        self._count(name)
        if name in self._named:
            return name
        if len(self._named) < self._num_places:
            self._named.add(name)
            return name
        if not self._named:
            return OTHER_TENANTS
        least = min(self._named, key=self._busyness)
        if self._busyness(name) < _TAKEOVER * self._busyness(least) + 1:
            return OTHER_TENANTS
        self._named.remove(least)
        self._named.add(name)
        return name

    @property
    def named(self) -> frozenset[str]:
        return frozenset(self._named)

    def _busyness(self, name: str) -> int:
        return self._counts.get(name, 0)

    def _count(self, name: str) -> None:
        counts = self._counts
        if name in counts:
            counts[name] += 1
        elif len(counts) < max(1, self._num_places) * _CANDIDATES_PER_PLACE:
            counts[name] = 1
        else:
            # The newcomer inherits the count, which then is an upper bound of its own.
            least = min(counts, key=counts.__getitem__)
            counts[name] = counts.pop(least) + 1
        self._num_seen += 1
        if self._num_seen % _AGE_EVERY == 0:
            self._counts = {key: count // 2 for key, count in counts.items()}
