"""Transfer plans: data that says where the weights of a rewritten network come from, and their one executor."""

from nasir.ir.source import AxisTake as AxisTake
from nasir.ir.source import Blob as Blob
from nasir.ir.source import Key as Key
from nasir.ir.source import Source as Source
from nasir.ir.source import Stack as Stack
from nasir.ir.source import Sum as Sum
from nasir.ir.source import Take as Take
from nasir.ir.source import Twin as Twin
from nasir.ir.source import averages as averages
from nasir.ir.source import digests_of as digests_of
from nasir.ir.source import keys_of as keys_of
from nasir.transfer.derive import derive as derive
from nasir.transfer.fill import fill as fill
from nasir.transfer.fill import random_stream as random_stream
from nasir.transfer.identity import Coordinates as Coordinates
from nasir.transfer.moments import FIRST as FIRST
from nasir.transfer.moments import Moment as Moment
from nasir.transfer.moments import moment_source as moment_source
from nasir.transfer.moments import only_picks as only_picks
from nasir.transfer.plan import TransferPlan as TransferPlan
from nasir.transfer.run import Arrays as Arrays
from nasir.transfer.run import NumpyArrays as NumpyArrays
from nasir.transfer.run import execute as execute
from nasir.transfer.run import execute_moment as execute_moment
