"""Rows of Bidirectional and TimeDistributed."""

from cases import Case
from cases_embedding import holes, indices, padded
from nnkit.layers import GRU, LSTM, BatchNormalization, Bidirectional, Conv1D, Dense, Embedding, Flatten, Masking, SimpleRNN, TimeDistributed
from nnkit.network import Network
from nnkit.tensors import Input


def with_start():
    x, start = Input((4, 2), name="x"), [Input((3,), name=f"start{k}") for k in range(4)]
    return Network([x, *start], Bidirectional(LSTM(3, return_state=True), merge_mode=None)(x, initial_state=start))


CASES = [
    Case("bidirectional-last", [Bidirectional(LSTM(3))], (5, 2)),
    Case("bidirectional-sequences", [Bidirectional(GRU(3, return_sequences=True)), Dense(2)], (5, 2), batch=11),
    Case("bidirectional-sum", [Bidirectional(SimpleRNN(3, return_sequences=True), merge_mode="sum")], (4, 2)),
    Case("bidirectional-mul", [Bidirectional(GRU(2, reset_after=False, go_backwards=True), merge_mode="mul")], (4, 2)),
    Case("bidirectional-ave-other-layer", [Bidirectional(LSTM(3), merge_mode="ave",
                                                         backward_layer=LSTM(3, activation="relu", go_backwards=True, name="back"))], (4, 2)),
    Case("bidirectional-two", Network(x := Input((4, 2)), Bidirectional(SimpleRNN(3, return_sequences=True), merge_mode=None)(x))),
    Case("bidirectional-states", with_start(), batch=4),
    Case("bidirectional-masked-sequences", [Embedding(9, 3, mask_zero=True), Bidirectional(LSTM(2, return_sequences=True)), GRU(2)], (5,),
         x=padded(9), batch=5),
    Case("bidirectional-masked-last", [Masking(), Bidirectional(GRU(3), merge_mode="sum")], (5, 2), x=holes, moved=False, batch=4),
    Case("time_distributed-dense", [TimeDistributed(Dense(3, activation="relu"))], (4, 2)),
    Case("time_distributed-conv", [TimeDistributed(Conv1D(2, 3)), TimeDistributed(Flatten()), LSTM(2)], (3, 5, 2)),
    Case("time_distributed-norm", [TimeDistributed(BatchNormalization())], (3, 4), batch=4),
    Case("time_distributed-masked", [Masking(), TimeDistributed(LSTM(2)), GRU(2)], (3, 4, 2), x=holes, moved=False, batch=4),
    Case("time_distributed-embedding", [TimeDistributed(Embedding(5, 3)), TimeDistributed(SimpleRNN(2))], (3, 4), x=indices(5)),
]
