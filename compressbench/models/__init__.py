"""Models: modules by name, from torchvision or timm, or anybody's own.

A model config (``conf/model/NAME.yaml``) has a ``name``, a ``build`` spec and optionally ``weights``::

    # mynet: what it is (source)
    name: mynet
    build: {_target_: mypackage.nets.MyNet, width: 32, shape: "@shape", classes: "@classes"}
    weights: null   # or a .safetensors / weights-only .pt file with initial weights

``_target_`` is the import path of any callable that returns an ``nn.Module``; there is no base class and no
list to enter it in. ``@classes``, ``@shape`` ([channels, height, width]), ``@channels``, ``@height`` and
``@width`` are filled in from the dataset; leave out those that the module doesn't take. Code of your own
must be trusted once, ``trust=[mypackage]``. The forward takes (n, channels, height, width) floats and
returns (n, classes) logits, or anything that ``compressbench.outputs.forward`` can read them from.

The modules in this package draw all randomness from torch's global generator while they are built, hold no
data-dependent control flow (``torch.fx`` traces them), put every batch norm right behind its convolution, and
modify nothing in place.
"""
