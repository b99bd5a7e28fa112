"""Secure aggregation: the server learns the sum of updates and no single one (Bonawitz et al. 2017, "Practical secure aggregation").

Each update is rounded to whole numbers and sent under masks that cancel in the sum; Shamir shares bring back the masks of clients that
drop out. `client` and `server` are the two sides, as functions of values; messages are bytes, for any transport to carry.

What it promises, if fewer than `Terms.colluders` + 1 clients work with the server and secrets come from the operating system:

- To a server that keeps the protocol and is curious: it learns the sum over the survivors, who took part and who dropped out.
- To a server that lies, only with `Terms.signed` and verification keys that did not come from that server: the same, or the round ends
  without result. Without signatures such a server can play every other client, and then reads the update of the one it is after.

What it does not promise:

- Nothing hides what the sum itself tells: add noise (`fedstyle.privacy.shares`), and use cohorts that are large enough.
- A server that picks cohorts can ask for two that differ in one client and compare: only noise stands against that.
- No check of what a client sends in: bounds on its update are its own; robust strategies and outlier checks cannot see single updates.
- A client that sends wrong shares can make a round fail, and is not named.
- Sums are modulo 2^32 or 2^64, chosen so that honest updates cannot wrap; a dishonest client can send any number.
- Python leaves copies of secrets in memory, and its whole-number arithmetic does not take constant time.
"""
