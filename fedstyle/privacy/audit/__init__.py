"""Attacks on what leaves a device, and checks of what is done to it: what `fedstyle audit` measures.

users, releases          simulated users, and what an attacker sees of them: seven releases side by side
learned                  what the attacker learns from users that it simulates
reidentification         whose style is it, among 16
membership               was this photo trained on
rebuilding, inversion    rebuild a photo from an update, by what was learned and by gradient search
attacks                  all of them on the users of an audit
utility                  what a setting leaves of the base
conformance, faults      does the aggregator do what is accounted, with seeded faults to prove the checks
wired, mechanism         the same of rounds as they run, through Flower
canary                   a lower bound on epsilon from one run of the aggregator
statistics               figures with their intervals
study, page              all of it for a configuration, as JSON and as a page
"""
