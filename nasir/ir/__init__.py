"""The intermediate representation: networks as immutable typed graphs. No weights, no torch."""

from nasir.ir.cost import Cost as Cost
from nasir.ir.graph import Claim as Claim
from nasir.ir.graph import Draft as Draft
from nasir.ir.graph import Graph as Graph
from nasir.ir.graph import parse as parse
from nasir.ir.infer import At as At
from nasir.ir.node import Node as Node
from nasir.ir.node import Region as Region
from nasir.ir.op import op as op
from nasir.ir.op import op_named as op_named
from nasir.ir.op import per_axis as per_axis
from nasir.ir.space import Atom as Atom
from nasir.ir.space import Cat as Cat
from nasir.ir.space import Index as Index
from nasir.ir.space import Prod as Prod
from nasir.ir.space import atoms_of as atoms_of
from nasir.ir.space import positions as positions
from nasir.ir.types import JSON as JSON
from nasir.ir.types import Fill as Fill
from nasir.ir.types import Port as Port
from nasir.ir.types import Slot as Slot
from nasir.ir.types import ValueType as ValueType
