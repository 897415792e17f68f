"""A slide that was read whole, read again as a policy would have read it."""

from parfocal.embed.glance import Glance, TileOrder, n_chosen
from parfocal.embed.unfolding import Unfolding
from parfocal.store import SlideTokens
from parfocal.zoom.policies.policy import Policy


def replayed(policy: Policy, tokens: SlideTokens, glance: Glance, *, budget: float = 1.0) -> TileOrder:
    """The order of a slide's finest tiles; a policy that looks at what was read sees no other rows than these.

    Args:
        policy: by which it is read.
        tokens: of the slide, as stored.
        glance: what is known of it before.
        budget: the share of its tiles that is read; what comes later is ordered by what these show.

    Raises:
        ConfigError: the policy cannot say where to read.
    """
    order, rows = Unfolding(policy.name, glance, policy.ranked(glance)), tokens.features[glance.mpp]
    order.first(n_chosen(glance.n_tiles, budget), lambda read: (rows[read], read))
    return order.known
