"""The built-in policies, and their parts. They come through the same entry points as anybody's."""

from foreseer.policies._agreement import AgreementSchedule, agreement
from foreseer.policies._cg_taylor import FirstBlockGate, cg_taylor
from foreseer.policies._corrector import Corrector, corrector, corrector_weights
from foreseer.policies._planned import GatedSchedule, Schedule, planned
from foreseer.policies._speca import DraftGate, speca
from foreseer.policies._speca_released import LaggedGate, speca_released
from foreseer.policies._taylor import taylor, taylor_weights
from foreseer.policies._taylorseer import Everything, Interval, none, reuse, taylorseer
from foreseer.policies.drafting import DraftCounter, draft_needs
from foreseer.policies.predictors import BlockWise, LinearPredictor, PredictorLike, predictor_from
from foreseer.policies.timetable import Timetable

__all__ = [
    "AgreementSchedule",
    "BlockWise",
    "Corrector",
    "DraftCounter",
    "DraftGate",
    "Everything",
    "FirstBlockGate",
    "GatedSchedule",
    "Interval",
    "LaggedGate",
    "LinearPredictor",
    "PredictorLike",
    "Schedule",
    "Timetable",
    "agreement",
    "cg_taylor",
    "corrector",
    "corrector_weights",
    "draft_needs",
    "none",
    "planned",
    "predictor_from",
    "reuse",
    "speca",
    "speca_released",
    "taylor",
    "taylor_weights",
    "taylorseer",
]
