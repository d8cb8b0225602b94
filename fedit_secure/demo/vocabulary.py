"""Words that anybody may know: names, days, illnesses, the organ that each concerns.

The public text teaches the base model these words; the silos' records use them too. No
hospital's own rule (its levels, codes, doses, desks) is here: those are in `hospital`
alone, and only the silos' records show them.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


SURNAMES = words(
    """
    Adler Aldana Bakker Barros Becker Bianchi Bruno Carver Castell Dahl Dorsey Duval
    Ekström Eriksen Fabre Falk Ferrer Galvan Gerber Greco Haas Halvor Horvat Ibarra
    Jansen Jonker Kaplan Keller Kovac Lang Laurent Lindh Lopes Marin Meyer Molnar Moreau
    Nagy Novak Olsen Ortega Paulsen Perrin Petrov Quist Reyes Rossi Ruiz Sala Santos
    Serra Silva Simon Soler Tamm Toth Urban Valdes Varga Vidal Weber Winter Ziegler Zorn
    """
)

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

SEVERITIES = ("mild", "moderate", "severe", "extreme")
"""From least to most: storms, spices and pains are graded with the same words."""

POSITIONS = ("far below", "just below", "within", "just above", "far above")
"""Where a measured value lies against its usual range, from low to high."""

SYSTEMS: dict[str, tuple[str, ...]] = {
    "heart": ("angina", "heart failure", "heart attack", "valve disease", "flutter"),
    "blood": ("anaemia", "leukaemia", "lymphoma", "blood clot", "thrombosis"),
    "lungs": ("asthma", "bronchitis", "pneumonia", "croup", "lung tumour"),
    "bones": ("broken wrist", "broken ankle", "hip fracture", "bone tumour", "sprain"),
    "skin": ("burn", "rash", "deep cut", "skin tumour", "eczema"),
    "head": ("migraine", "concussion", "stroke", "seizure", "ear infection"),
    "stomach": ("ulcer", "gastritis", "food poisoning", "bowel tumour", "colic"),
    "kidneys": ("kidney stone", "kidney failure", "kidney infection", "cystitis"),
}
"""Part of the body -> illnesses and injuries that concern it."""

CONDITIONS: dict[str, str] = {
    condition: system
    for system, conditions in SYSTEMS.items()
    for condition in conditions
}
"""Illness or injury -> the part of the body that it concerns."""

COMPLAINTS = (
    "chest pain",
    "headache",
    "fever",
    "cough",
    "bleeding",
    "dizziness",
    "nausea",
    "short breath",
    "back pain",
    "swelling",
)

ANALYTES = (
    "potassium",
    "sodium",
    "calcium",
    "glucose",
    "iron",
    "platelets",
    "white cells",
    "oxygen",
)

EXAMINATIONS = (
    "an X-ray",
    "a blood test",
    "a scan",
    "an ultrasound",
    "a biopsy",
    "a hearing test",
    "a breathing test",
    "a heart trace",
)

VITALS = ("pulse", "breathing", "temperature", "blood pressure", "pain", "fluids")
