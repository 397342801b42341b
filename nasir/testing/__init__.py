"""Tools to test ops, passes, policies and backends: generated networks, a reference interpreter, contract suites.

A third party subclasses a suite in its own tests; pytest collects it from there:

    class TestMyPass(PassContract):
        make = staticmethod(lambda: MyPass(fraction=0.5))
"""

from nasir.testing import norm_references as norm_references
from nasir.testing import pointwise_references as pointwise_references
from nasir.testing import window_references as window_references
from nasir.testing.backend_contract import BackendContract as BackendContract
from nasir.testing.graphs import MIXING as MIXING
from nasir.testing.graphs import STIRRING as STIRRING
from nasir.testing.graphs import random_graph as random_graph
from nasir.testing.graphs import random_graphs as random_graphs
from nasir.testing.interpreter import evaluate as evaluate
from nasir.testing.interpreter import evaluate_op as evaluate_op
from nasir.testing.interpreter import reference as reference
from nasir.testing.interpreter import trace as trace
from nasir.testing.op_case import OpCase as OpCase
from nasir.testing.op_contract import OpContract as OpContract
from nasir.testing.op_contract import shipped_cases as shipped_cases
from nasir.testing.optimizer_contract import OptimizerContract as OptimizerContract
from nasir.testing.pass_contract import PassContract as PassContract
from nasir.testing.policy_contract import PolicyContract as PolicyContract
from nasir.testing.token_graphs import random_transformer as random_transformer
from nasir.testing.token_graphs import varied_graph as varied_graph
from nasir.testing.token_graphs import varied_graphs as varied_graphs
from nasir.testing.twins import twin_ops as twin_ops
from nasir.testing.twins import with_twins as with_twins
from nasir.testing.twins import without_twins as without_twins
from nasir.testing.unit_oracles import dead_unit_difference as dead_unit_difference
from nasir.testing.unit_oracles import permutation_difference as permutation_difference
from nasir.testing.unit_oracles import silenced as silenced
from nasir.testing.unit_oracles import unit_axes as unit_axes
from nasir.testing.weights import random_batch as random_batch
from nasir.testing.weights import random_weights as random_weights
from nasir.testing.weights import silence as silence
from nasir.testing.weights import transferred as transferred
