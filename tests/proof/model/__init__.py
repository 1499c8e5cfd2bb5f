"""A model of the order protocol: one order, and everything that can happen to it, in every order of events.

The order is a frozen tuple (state.py). What may happen next is a list of named transitions: a statement or call of an
attempt of an activity (activities.py), and whatever runs, operators, customers, Stripe and the warehouse do meanwhile
(protocol.py). The explorer goes breadth-first through all states that can be reached (explorer.py), asks of each
whether the invariants hold (invariants.py), and whether an end can still be reached from it. configurations.py says
what may happen in which configuration: an attempt that was given up and acts later, a run that is terminated, an
authorization that expires, a refund that fails.

A rule of the protocol can be taken away (state.Rule). Then the explorer must find an order that goes wrong, and
prints the shortest list of transitions that leads there. A rule that no invariant needs would be none.

To read it, begin with activities.py beside activities/: it makes the same statements and calls, and at each
`yield` the outside world may change. What follows which answer is in protocol.py beside
workflows/. E-mails are left out.

    python -m tests.proof.model                    all configurations, and what goes wrong without each rule
    python -m tests.proof.model PARK_BLOCKS        the trace of an order without this rule
    pytest tests/proof/model                       the same as tests; test_code.py compares model, SQL and code

Change the protocol only together with this model: a status transition that is in one and not in the other fails a test.
"""
