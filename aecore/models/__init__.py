"""One module a model family, named after its chapter: ``aecore.models.vae`` and so on.

Every model is a plain ``torch.nn.Module`` with ``encode(x)``, ``decode(z)`` and
``loss(x, y=None)``, which returns named terms, one number an example.
"""
