"""What the file of a MedMNIST set says by its name: its classes, and whether it can be used.

The names of the classes are those of the dictionary ``INFO`` of MedMNIST (Yang et al., Scientific Data 2023).  The
classes of ``retinamnist``, grades of a disease, are numbers there too.
"""

from __future__ import annotations

import re
from pathlib import Path

from ltdd_core.errors import InputError

ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
CLASS_NAMES = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast"),
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": (
        *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
        *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
        "Thick Ascending Limb",
    ),
    "organamnist": ORGANS,
    "organcmnist": ORGANS,
    "organsmnist": ORGANS,
}
"""By the name of the set, in the order of the labels."""
SIZES = r"(_(28|64|128|224))?"
"""How the name of a file ends whose images have another size than 28x28."""


def class_names(path: Path, classes: int) -> tuple[str, ...]:
    """The classes of the set that a file is called after, if it has as many; otherwise numbers.

    Args:
        path: of an archive, ``pathmnist.npz`` or ``pathmnist_64.npz``.
        classes: how many there are in it.
    """
    name = re.sub(f"{SIZES}$", "", path.stem.lower())
    known = CLASS_NAMES.get(name, ())
    return known if len(known) == classes else tuple(str(label) for label in range(classes))


def check_is_for_classes(path: Path) -> None:
    """Refuse the sets of MedMNIST that are no images of one class each.

    Raises:
        InputError: by its name, the file holds images of several classes each, or volumes.
    """
    if re.fullmatch(f"chestmnist{SIZES}", path.stem.lower()):
        raise InputError(f"{path}: an image of chestmnist has several classes at once; one class an image is needed.")
    if re.fullmatch(rf"\w+mnist3d{SIZES}", path.stem.lower()):
        raise InputError(f"{path}: this set of MedMNIST has volumes; images of two dimensions are needed.")
