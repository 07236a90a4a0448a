"""Class names for ``resdet classify``."""


def class_names(count: int) -> list[str]:
    """Return ImageNet's class names for 1000 classes, else numbers."""
    if count != 1000:
        return [str(i) for i in range(count)]
    from torchvision.models import ResNet50_Weights  # slow to import

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
