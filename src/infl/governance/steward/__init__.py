"""The page for a data steward or an ethics board: plain words beside each number, and a place to sign."""

from infl.governance.steward.page import steward_page

__all__ = ["steward_page"]
