"""`registry model study`: what shift, strength and k cost in quality and buy in evidence, measured.

    sweep = Sweep(shifts="0,448", bits="64", psnrs="32,36", steps=300)
    found = run(home, "flowers", sweep, data=None, say=print)
    found.results, found.recommendation
    write_report(found, Path("study.html"))

The design variables are those of Nie et al. (ICML 2023): which principal components carry the key
(shift), how strongly (sigma), and how many (k). Each *point* gets its basis, a small attribution network
trained for a stated number of steps, and figures on images that training has not seen, before and after
the paper's attacks. A point's basis, checkpoint and figures lie in a folder named after the digest of
its parameters, so that a study that was stopped, or is asked for more points, trains only what is missing.
"""
