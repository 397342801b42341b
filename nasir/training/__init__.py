"""Plans for training (what, how and on which data), and the protocol of the backends that carry them out."""

from nasir.training.backend import Backend as Backend
from nasir.training.backend import Session as Session
from nasir.training.exporter import Exportable as Exportable
from nasir.training.exporter import Exporter as Exporter
from nasir.training.optimizers import Betas as Betas
from nasir.training.optimizers import Optimizer as Optimizer
from nasir.training.penalties import Penalty as Penalty
from nasir.training.penalties import WeightPenalty as WeightPenalty
from nasir.training.plans import DataPlan as DataPlan
from nasir.training.plans import OptimizerPlan as OptimizerPlan
from nasir.training.plans import PenaltyPlan as PenaltyPlan
from nasir.training.plans import SchedulePlan as SchedulePlan
from nasir.training.plans import TrainPlan as TrainPlan
from nasir.training.states import Keeps as Keeps
