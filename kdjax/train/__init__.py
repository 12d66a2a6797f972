"""Training: one step builder, placement on devices, one loop, stages, evaluation.

`kdjax.train.checkpoints` is imported by name: it is the one module that needs Orbax.
"""

from kdjax.train.constraints import constrainer as constrainer
from kdjax.train.constraints import per_shard as per_shard
from kdjax.train.evaluation import build_evaluation as build_evaluation
from kdjax.train.federated import federated as federated
from kdjax.train.federated import weighted_average as weighted_average
from kdjax.train.gradients import reverse_gradient as reverse_gradient
from kdjax.train.loop import Every as Every
from kdjax.train.loop import NonFiniteLossError as NonFiniteLossError
from kdjax.train.loop import Trained as Trained
from kdjax.train.loop import first_failures as first_failures
from kdjax.train.loop import scanned as scanned
from kdjax.train.loop import train as train
from kdjax.train.method import Method as Method
from kdjax.train.method import Phase as Phase
from kdjax.train.method import Term as Term
from kdjax.train.method import join as join
from kdjax.train.method import one_phase as one_phase
from kdjax.train.method import term as term
from kdjax.train.partition import restrict as restrict
from kdjax.train.partition import split as split
from kdjax.train.placement import batch_sharding as batch_sharding
from kdjax.train.placement import fetch as fetch
from kdjax.train.placement import make_mesh as make_mesh
from kdjax.train.placement import place as place
from kdjax.train.placement import put as put
from kdjax.train.placement import put_local as put_local
from kdjax.train.placement import replicated as replicated
from kdjax.train.placement import settle as settle
from kdjax.train.placement import share_reader as share_reader
from kdjax.train.placement import state_sharding as state_sharding
from kdjax.train.placement import tree_sharding as tree_sharding
from kdjax.train.pool import Pool as Pool
from kdjax.train.rules import average_gradient_memory as average_gradient_memory
from kdjax.train.rules import gradient_episodic_memory as gradient_episodic_memory
from kdjax.train.rules import gradient_surgery as gradient_surgery
from kdjax.train.rules import multiple_gradient_descent as multiple_gradient_descent
from kdjax.train.rules import null_space_projection as null_space_projection
from kdjax.train.rules import two_momenta as two_momenta
from kdjax.train.rules import zero_momenta as zero_momenta
from kdjax.train.scope import Scope as Scope
from kdjax.train.stages import Stage as Stage
from kdjax.train.stages import Stopped as Stopped
from kdjax.train.stages import repeat as repeat
from kdjax.train.stages import run_stages as run_stages
from kdjax.train.stages import train_stage as train_stage
from kdjax.train.step import State as State
from kdjax.train.step import build_train_step as build_train_step
from kdjax.train.step import init_state as init_state
