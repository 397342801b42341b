"""Recordings of any PyTorch module as a pure data flow, without torch: what importers read.

`nasir.backends.torch.importing.record` makes them; docs/importing.md says what they hold.
"""

from nasir.importing.extending import rule as rule
from nasir.importing.recording import Batch as Batch
from nasir.importing.recording import Call as Call
from nasir.importing.recording import Device as Device
from nasir.importing.recording import Input as Input
from nasir.importing.recording import Recording as Recording
from nasir.importing.recording import Ref as Ref
from nasir.importing.recording import Scope as Scope
from nasir.importing.recording import State as State
from nasir.importing.recording import Structure as Structure
from nasir.importing.recording import Switch as Switch
from nasir.importing.recording import Symbol as Symbol
from nasir.importing.recording import Tree as Tree
from nasir.importing.recording import Update as Update
from nasir.importing.recording import Value as Value
from nasir.importing.rules.place import Place as Place
from nasir.importing.rules.place import Typed as Typed
from nasir.importing.text import to_text as to_text
