"""Recording any module as a pure data flow, replaying recordings, and comparing both."""

from nasir.backends.torch.importing.comparing import Parity as Parity
from nasir.backends.torch.importing.comparing import parity as parity
from nasir.backends.torch.importing.comparing import runner as runner
from nasir.backends.torch.importing.model import from_module as from_module
from nasir.backends.torch.importing.model import graph_of as graph_of
from nasir.backends.torch.importing.recording import record as record
from nasir.backends.torch.importing.replaying import replay as replay
