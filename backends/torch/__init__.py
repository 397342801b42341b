"""The PyTorch backend: graphs as ordinary modules, trained and rewritten with their optimizer state."""

from nasir.backends.torch.data.rawdata import DataContext as DataContext
from nasir.backends.torch.data.rawdata import FileData as FileData
from nasir.backends.torch.data.rawdata import Found as Found
from nasir.backends.torch.data.rawdata import RawData as RawData
from nasir.backends.torch.data.rawdata import read_options as read_options
from nasir.backends.torch.importing import foreign as foreign
from nasir.backends.torch.importing.model import from_module as from_module
from nasir.backends.torch.lower import axes as axes
from nasir.backends.torch.lower import convolutions as convolutions
from nasir.backends.torch.lower import dropping as dropping
from nasir.backends.torch.lower import normalizer_free as normalizer_free
from nasir.backends.torch.lower import norms as norms
from nasir.backends.torch.lower import pointwise as pointwise
from nasir.backends.torch.lower import routing as routing
from nasir.backends.torch.lower import tokens as tokens
from nasir.backends.torch.lower import windows as windows
from nasir.backends.torch.lower.ops import Call as Call
from nasir.backends.torch.lower.ops import lowering as lowering
from nasir.backends.torch.model import Model as Model
from nasir.backends.torch.weights.stored import Stored as Stored
from nasir.backends.torch.weights.stored import load as load
from nasir.backends.torch.weights.stored import save as save
