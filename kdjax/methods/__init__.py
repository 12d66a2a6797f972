"""Published methods: one function each, from hyperparameters to a `Method`.

A config names a method by its name here.
"""

from kdjax.methods.augmentation import rotated_labels as rotated_labels
from kdjax.methods.augmentation import sla as sla
from kdjax.methods.contrastive import wcord as wcord
from kdjax.methods.cross_tokenizer import aligned_universal_kd as aligned_universal_kd
from kdjax.methods.cross_tokenizer import universal_kd as universal_kd
from kdjax.methods.data_free import adversarial_data_free as adversarial_data_free
from kdjax.methods.data_free import anti_backdoor as anti_backdoor
from kdjax.methods.data_free import learning_to_retain as learning_to_retain
from kdjax.methods.features import aft as aft
from kdjax.methods.features import hint as hint
from kdjax.methods.logits import born_again as born_again
from kdjax.methods.logits import data_partition as data_partition
from kdjax.methods.logits import dot as dot
from kdjax.methods.logits import kd as kd
from kdjax.methods.logits import reliable_generation as reliable_generation
from kdjax.methods.multi_teacher import dempster_fusion as dempster_fusion
from kdjax.methods.multi_teacher import rl_kd as rl_kd
from kdjax.methods.multi_teacher import weighted_teachers as weighted_teachers
from kdjax.methods.on_policy import minillm as minillm
from kdjax.methods.online import bd_kd as bd_kd
from kdjax.methods.online import mutual_learning as mutual_learning
from kdjax.methods.online import pesf_kd as pesf_kd
from kdjax.methods.relational import relational as relational
from kdjax.methods.relational import rkd as rkd
from kdjax.methods.sequence import next_token as next_token
from kdjax.methods.sequence import self_evolution_kd as self_evolution_kd
from kdjax.methods.sequence import taid as taid
from kdjax.methods.sequence import token_kd as token_kd
from kdjax.methods.supervised import supervised as supervised
