"""Reports: findings as something one shows to a lawyer, signed, and checkable by whoever is accused.

    exhibit = Exhibit(finding, named=[Named(certificate, inclusion)], thumbnails=[thumbnail(image)])
    report = Report("Case 7", created_at, registry, [exhibit], checkpoint=note)
    envelope = sealed(report, private_key)                # DSSE over an in-toto statement; None: a draft
    Path("report.html").write_bytes(render_html(envelope))
    Path("report.pdf").write_bytes(render_pdf(envelope))  # the extra `report`

The signature covers the data and every word on the page: what is shown is laid out from the signed payload,
and the payload travels inside the HTML page (as inert JSON) and inside the PDF (as an attachment), where
:func:`opened` finds it again.

    statement.py   the typed content of a report, and its payload
    page.py        the page: blocks of words, tables and pictures, composed from the content
    html.py pdf.py the two layouts of these blocks
    container.py   the envelope inside a page or PDF
    making.py      `verifier report FINDING.json`: content from findings, images and a bundle
    checking.py    `verifier report --check`
"""

from verifier.report.container import opened
from verifier.report.html import render_html
from verifier.report.page import sealed
from verifier.report.pdf import render_pdf
from verifier.report.statement import Case, Exhibit, Named, NetworkFacts, Opened, Origin, Report, Signer
from verifier.report.thumbnails import thumbnail

__all__ = [
    "Case",
    "Exhibit",
    "Named",
    "NetworkFacts",
    "Opened",
    "Origin",
    "Report",
    "Signer",
    "opened",
    "render_html",
    "render_pdf",
    "sealed",
    "thumbnail",
]
