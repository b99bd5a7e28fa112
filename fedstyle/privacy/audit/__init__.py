"""Attacks on what leaves a device, and checks of what is done to it: what `fedstyle audit` measures.

users, releases          simulated users, and what an attacker sees of them: seven releases side by side
reidentification         whose style is it, among 16
membership               was this photo trained on
inversion                rebuild a photo from an update
conformance, faults      does the aggregator do what is accounted, with seeded faults to prove the checks
canary                   a lower bound on epsilon from one run of the aggregator
statistics               figures with their intervals
study, page              all of it for a configuration, as JSON and as a page
"""
