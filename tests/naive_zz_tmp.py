import numpy as np
def linear(spec, parameters, x, training=False): return x
def tanh(spec, parameters, x, training=False): return np.tanh(x)
def sigmoid(spec, parameters, x, training=False): return 1/(1+np.exp(-x))
