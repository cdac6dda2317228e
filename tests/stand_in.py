"""An empty torchvision, which libraries import and of which nothing used here needs anything."""

import sys
import types


def stand_in_for_torchvision():
    class Anything(type):  # classes whose attributes are such classes
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Anything(name, (), {})

    class Empty(types.ModuleType):
        __getattr__ = Anything.__getattr__

    names = ["", ".datasets", ".datasets.utils", ".datasets.vision", ".models", ".models.resnet"]
    names += [".transforms", ".transforms.functional", ".transforms.v2", ".ops", ".io", ".utils"]
    names += [".datasets.folder", ".models.vision_transformer", ".models.densenet"]
    for name in names:
        module = Empty(f"torchvision{name}")
        module.__path__ = []
        sys.modules[f"torchvision{name}"] = module
