"""Published methods: one function each, from hyperparameters to a `Method`.

A config names a method by its name here.
"""

from kdjax.methods.features import hint as hint
from kdjax.methods.logits import kd as kd
from kdjax.methods.multi_teacher import weighted_teachers as weighted_teachers
from kdjax.methods.relational import relational as relational
from kdjax.methods.sequence import token_kd as token_kd
from kdjax.methods.supervised import supervised as supervised
