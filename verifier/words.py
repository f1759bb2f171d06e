"""What a finding says, in words for people who decide on it: never more than was proved.

    words.headline(finding)          # "This image depends on the key of copy-5f0c..."
    words.chance(finding)            # "... with a probability of at most 1 in 4.1 × 10³⁸."
    words.meaning(finding)           # what that means and what it does not mean, a paragraph each

One place for reports, for the console and for whoever else puts a verdict into sentences. Below alpha nothing
is said that a finding does not hold: no copy, no number, no "nearly".
"""

from __future__ import annotations

import math

from verifier.finding import Finding, OnlineFinding

NO_ODDS = "1 in 1"

DISCLOSED = (
    "This report contains the bits of the key. Whoever has it can read and forge this copy's fingerprint "
    "from now on: images that turn up after it was handed out are no evidence against the holder of the copy."
)

GLOSSARY = (
    ("copy", "The model's weights as one recipient got them. Each copy's weights carry a key of its own."),
    ("key", "Random bits that leave a weak pattern, the fingerprint, in every image the copy makes."),
    ("reading", "What a neural network makes out of an image: each bit, yes or no, clearly or weakly."),
    ("score", "How well a reading agrees with a key, clear bits counting for more."),
    ("bound", "The largest probability that a key drawn at random reaches such a score by accident."),
    ("certificate", "The registry's signed statement, made when it issued the key, of whose it is."),
    ("commitment", "A digest of the key's bits in the certificate: they cannot be exchanged afterwards."),
    ("ledger", "A list of all certificates to which one can only add; a proof shows that an entry is in it."),
    ("SHA-256", "A digest of a file: files with the same one are the same, byte for byte."),
)
"""Terms of a report in words for people who do not work with them."""

_SCALES = ((12, "trillion"), (9, "billion"), (6, "million"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS_END = 15  # beyond, "trillion" means different numbers to different readers


def odds(log10_p: float) -> str:
    """A probability's upper bound as ``1 in N``, N rounded down: "1 in 12 million", "1 in 4.1 × 10³⁸"."""
    decades = -log10_p
    if not decades > math.log10(2):
        return NO_ODDS
    if decades < _SCALES[-1][0]:
        whole = math.floor(10**decades)
        return f"1 in {count(whole if whole < 1000 else int(_two_digits(whole)))}"
    if decades < _WORDS_END:
        scale, name = next(pair for pair in _SCALES if decades >= pair[0])
        return f"1 in {_two_digits(10 ** (decades - scale))} {name}"
    exponent = math.floor(decades)
    return f"1 in {_two_digits(10 ** (decades - exponent))} × 10{str(exponent).translate(_SUPERSCRIPT)}"


def _two_digits(value: float) -> str:
    """``value`` (1 or more) rounded down to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step) * step:.10g}"


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def count(number: int) -> str:
    """A number with thousands apart."""
    return f"{number:,}"


def alpha(value: float) -> str:
    """A bound as people write it: "1 in 1 million"."""
    return odds(math.log10(value))


def readable(finding: Finding) -> int:
    """How many of the images could be read."""
    return sum(image.error is None for image in finding.images)


def headline(finding: Finding) -> str:
    """The verdict as one sentence."""
    if readable(finding) and not finding.attributed and finding.contradiction is None:
        return f"No copy can be named for {'these images' if readable(finding) > 1 else 'this image'}."
    statement = finding.statement()
    return f"{statement[0].upper()}{statement[1:]}."


def chance(finding: Finding) -> str:
    """The verdict's probability as one sentence, or what stands in its place."""
    evidence = finding.evidence
    limit = f"at most {alpha(evidence.alpha)}"
    if not readable(finding):
        return "Nothing was tested."
    if finding.contradiction is not None:
        return (
            f"Copies are named only where the chance of naming anybody by accident is {limit}. Two of these "
            "images reach that bound alone, for different copies, so nobody is named for all of them."
        )
    if not finding.attributed:
        return (
            f"Copies are named only where the chance of naming anybody by accident is {limit}; here no copy "
            "reached that bound."
        )
    family = finding.copies[0].log10_p_family
    subject = "these images were" if readable(finding) > 1 else "this image was"
    if family is None:
        return (
            f"If {subject} independent of every key of the registry, a test like this one would name a copy "
            f"by accident with a probability of {limit}; by how much the evidence is stronger, the registry "
            "does not disclose."
        )
    return (
        f"If {subject} independent of every key of the registry, a test like this one would find evidence as "
        f"strong as this, for any copy at all, with a probability of at most {odds(family)}."
    )


def meaning(finding: Finding) -> list[str]:
    """What the verdict means and what it does not mean: paragraphs."""
    if not readable(finding):
        return ["None of the files could be read as an image, so nothing can be said about them."]
    return _named(finding) if finding.attributed else _unnamed(finding)


def _named(finding: Finding) -> list[str]:
    several, plural = readable(finding) > 1, len(finding.copies) > 1
    keys = "these keys" if plural else "this key"
    said = [
        f"Every copy of the model carries a secret key of its own, drawn at random when it was issued. "
        f"What was found is that {'these images' if several else 'this image'} and {keys} are not "
        "independent "
        f"of each other. The probability counts all keys and all readings that were tested "
        f"({count(finding.evidence.hypotheses)}), and assumes nothing about images: only that keys are "
        "random.",
        "The number is the chance that a test of images which have nothing to do with any key ends like "
        "this. "
        "It is not the probability that the holder of the copy is innocent, and one minus it is not the "
        "probability that he is responsible: for that, everything else that is known counts too.",
    ]
    if several:
        said.append(
            f"The verdict is about the set: at least one of its {count(readable(finding))} images depends on "
            f"{keys}. It does not say that all of them do; what each adds is listed with the images."
        )
    if plural:
        said.append(
            "More than one copy is named. That happens when images were made by mixing copies, or when a set "
            "holds images of several copies."
        )
    said.append(
        "It does not say who made or published anything, when, or with what intent. A copy can be stolen, "
        "lent or leaked. Outside the proof are those who hold the key or its effect: whoever has the "
        "copy, the "
        "registry's operator, an auditor with the key table, and whoever managed to lift the fingerprint "
        "from "
        "published images of the copy and to paste it into others."
    )
    if any(copy.revoked for copy in finding.copies):
        said.append(
            "The key of this copy was revoked. Images of a revoked copy are attributed all the same; the "
            "revocation may mean that the copy was reported lost or leaked."
        )
    if isinstance(finding, OnlineFinding) and finding.provisional:
        said.append(
            "The registry was sent this device's readings of the images, not the images. Its answer is "
            "provisional until somebody has checked it against the images themselves."
        )
    return said


def _unnamed(finding: Finding) -> list[str]:
    subject = "these images" if readable(finding) > 1 else "this image"
    return [
        f"No copy can be named for {subject}. This is not a finding that no copy made {subject}: a "
        "fingerprint "
        "may have been weakened or removed by editing, the copy may be of a model that was not tested, or "
        "the "
        "picture may have no connection with any model at all. The test does not tell these apart.",
        "Below the bound nothing is disclosed, no nearest copy and no number, since an answer that grew "
        "warmer "
        "would help to remove fingerprints.",
    ]


def limits(finding: Finding) -> list[str]:
    """The method's limits that a reader of the verdict should know, a sentence or two each."""
    evidence = finding.evidence
    told = [
        "The bound is a mathematical statement about keys: keys are drawn by a pseudo-random function "
        "under a "
        "secret that was committed to when the model was registered, and the bits of each key are committed "
        "to in its certificate. It holds for any image, network and editing; a poor network loses "
        "attributions, it does not cause false ones.",
        f"It is a bound for this run: {alpha(evidence.alpha)} that anybody at all is named falsely"
        + (f", shared by the {count(evidence.groups)} tests of the run." if evidence.groups > 1 else ".")
        + " How many other runs were made, nobody can see from a finding.",
    ]
    if finding.attributed:
        told.append(
            "The bits of a key are secret. Whoever is accused may ask for the commitment to be opened; then "
            "everything here can be computed again from the images, by anybody."
        )
    else:
        told.append("A verdict at another bound, or with more images of the same source, may differ.")
    return told
