"""The PyTorch backend: graphs as ordinary modules, trained and rewritten with their optimizer state."""

from nasir.backends.torch import oplowering_tokens as oplowering_tokens
from nasir.backends.torch.model import Model as Model
from nasir.backends.torch.oplowering import Call as Call
from nasir.backends.torch.oplowering import lowering as lowering
from nasir.backends.torch.rawdata import DataContext as DataContext
from nasir.backends.torch.rawdata import FileData as FileData
from nasir.backends.torch.rawdata import RawData as RawData
from nasir.backends.torch.rawdata import read_options as read_options
