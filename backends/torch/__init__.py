"""The PyTorch backend: graphs as ordinary modules, trained and rewritten with their optimizer state."""

from nasir.backends.torch import oplowering_tokens as oplowering_tokens
from nasir.backends.torch.model import Model as Model
from nasir.backends.torch.oplowering import Call as Call
from nasir.backends.torch.oplowering import lowering as lowering
