"""The published question sets, each a file of this folder. A new one is added to SETS."""

from tasks import (
    aokvqa,
    chartqa,
    classification,
    clevr,
    clevr_math,
    cvbench,
    detection,
    geoqa,
    lisa,
    m3cot,
    mathverse,
    mathvision,
    mathvista,
    miniwob,
    mmbench,
    mmmu,
    mmstar,
    r1_onevision,
    rec,
    sat,
    scienceqa,
    superclevr,
    tabmwp,
)

SETS = [
    superclevr.PROTOCOL,
    geoqa.PROTOCOL,
    cvbench.PROTOCOL,
    rec.PROTOCOL,
    lisa.PROTOCOL,
    detection.PROTOCOL,
    classification.PROTOCOL,
    chartqa.PROTOCOL,
    clevr_math.PROTOCOL,
    aokvqa.PROTOCOL,
    scienceqa.PROTOCOL,
    sat.PROTOCOL,
    mathvista.PROTOCOL,
    mathverse.PROTOCOL,
    mathvision.PROTOCOL,
    mmmu.PROTOCOL,
    mmstar.PROTOCOL,
    mmbench.PROTOCOL,
    r1_onevision.PROTOCOL,
    miniwob.PROTOCOL,
    clevr.PROTOCOL,
    tabmwp.PROTOCOL,
    m3cot.PROTOCOL,
]
PROTOCOLS = {one.name: one for one in SETS if one.score}  # what --protocol may name
TEMPLATES = {name: text for one in SETS for name, text in one.templates.items()}
SELECT = {name: text for one in SETS for name, text in one.selects.items()}
LAYOUTS = [layout for one in SETS for layout in one.layouts]
