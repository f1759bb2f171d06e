"""Cases: investigations with their images, findings, notes and report.

    case = service.open_case(home, principal, "Leak of 3 May")
    received = images.add(home, principal, case.case_id, [("a.png", data)])    # stored, hashes timestamped
    checking.start(home, principal, case.case_id)                              # a round: findings to make
    checking.work(home, case.case_id, principal.organisation)                  # what the job does
    reporting.make(home, principal, case.case_id, "pdf")                       # signed by the registry's key

What holds a case together:

- An image counts from the moment its hash is in the ledger: keys issued later are left out of every test of
  it, so that no key can be chosen to fit an image at hand.
- All findings of a case share its alpha. Round r has alpha / (r (r + 1)) of it, whatever comes later, and its
  groups share that equally: the sum over all rounds is at most alpha.
- Findings are stored without names, bits of keys or anything else that only some may see; what a reader is
  shown is decided when he asks (:mod:`registry.cases.showing`).
"""
