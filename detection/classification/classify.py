"""``resdet classify``: what is on pictures, by a network with its classifier."""


def class_names(count: int) -> list[str]:
    """ImageNet's names for 1000 classes, else numbers."""
    if count != 1000:
        return [str(i) for i in range(count)]
    from torchvision.models import ResNet50_Weights  # slow to import, and needed here alone

    return list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
