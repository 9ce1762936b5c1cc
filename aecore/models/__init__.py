"""One module a model family, named after its chapter: ``aecore.models.vae`` and so on.

Every model is a plain ``torch.nn.Module`` whose ``loss(x, y=None)`` returns named terms, one number
an example. An autoencoder also has ``encode(x)`` and ``decode(z)``, of one argument each, with two
exceptions: a ``ConditionalVAE`` is given its condition everywhere, in ``encode(x, y)``,
``decode(z, y)`` and ``loss(x, y)``; a ``SemiSupervisedAutoencoder`` decodes two codes, in
``decode(style, category)``.
"""
