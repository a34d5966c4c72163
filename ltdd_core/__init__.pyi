"""The public names of ltdd: this list, and nothing else that is not in ``commands`` or ``testing``.

Each is imported when it is first used, so that the entry module of a plugin stays cheap to import.
"""

from .api import (
    configure as configure,
    evaluate as evaluate,
    export as export,
    load_data as load_data,
    make_network as make_network,
    quality as quality,
    relabel as relabel,
)
from .bench.launcher import (
    Job as Job,
    Launcher as Launcher,
    Resources as Resources,
)
from .config.model import (
    Config as Config,
)
from .data.by_class import (
    ByClassSampler as ByClassSampler,
)
from .data.drawing import (
    SHOT_COLOURS as SHOT_COLOURS,
    SHOT_WORDS as SHOT_WORDS,
    Lettering as Lettering,
    folded as folded,
    lettering as lettering,
    shot_colours as shot_colours,
    spread_out as spread_out,
)
from .data.encoded import (
    EncodedImages as EncodedImages,
    encoded_images as encoded_images,
)
from .data.folder import (
    FileOptions as FileOptions,
)
from .data.longtail import (
    by_count as by_count,
    shot_groups as shot_groups,
)
from .data.normalisation import (
    ZCA as ZCA,
    Normalisation as Normalisation,
    PerChannel as PerChannel,
)
from .data.sampler import (
    Embed as Embed,
    Features as Features,
    Sampler as Sampler,
    draw_by_class as draw_by_class,
)
from .data.sets import (
    LongTailedSet as LongTailedSet,
)
from .data.source import (
    ArrayTable as ArrayTable,
    DataSource as DataSource,
    ImageTable as ImageTable,
    LongTailOptions as LongTailOptions,
    SourceImages as SourceImages,
    SourceSizes as SourceSizes,
)
from .data.strong_training import (
    STRONG_TRAINING as STRONG_TRAINING,
)
from .distillation.batch_matcher import (
    BatchMatcher as BatchMatcher,
    ClassMatcher as ClassMatcher,
    class_means as class_means,
    embed_without_gradient as embed_without_gradient,
)
from .distillation.distill import (
    Result as Result,
    distill as distill,
)
from .distillation.matcher import (
    Batch as Batch,
    Matcher as Matcher,
    Synthetic as Synthetic,
)
from .distillation.partition import (
    canonical_labels as canonical_labels,
    class_centres as class_centres,
    class_distances as class_distances,
    cut_value as cut_value,
    max_cut as max_cut,
)
from .distillation.task import (
    Distillation as Distillation,
)
from .distillation.tiles import (
    tiled as tiled,
    untiled as untiled,
)
from .distillation.trajectories import (
    Trajectories as Trajectories,
)
from .errors import (
    InputError as InputError,
    Interrupted as Interrupted,
    OptionError as OptionError,
    OutOfTime as OutOfTime,
    RunFailed as RunFailed,
    how_to_set as how_to_set,
    unknown as unknown,
)
from .evaluation.calibration import (
    at_temperature as at_temperature,
    balanced_nll as balanced_nll,
    best_temperature as best_temperature,
)
from .evaluation.class_table import (
    worst_and_best as worst_and_best,
)
from .evaluation.confusion import (
    confusion_matrix as confusion_matrix,
)
from .evaluation.head import (
    Classifier as Classifier,
    ClassifierHead as ClassifierHead,
    Recipe as Recipe,
    Softmax as Softmax,
)
from .evaluation.intervals import (
    Interval as Interval,
    RowIntervals as RowIntervals,
    draw_test_images as draw_test_images,
    interval_of as interval_of,
    may_be_chance as may_be_chance,
)
from .evaluation.label_shift import (
    shares_of_classes as shares_of_classes,
)
from .evaluation.labeller import (
    Labeller as Labeller,
    Labelling as Labelling,
)
from .evaluation.metrics import (
    Reliability as Reliability,
    Row as Row,
    reliability as reliability,
)
from .evaluation.quality import (
    Quality as Quality,
)
from .evaluation.record import (
    StoredRun as StoredRun,
    read_run as read_run,
)
from .evaluation.repeats import (
    Repeated as Repeated,
)
from .evaluation.saving import (
    Saving as Saving,
)
from .evaluation.shown import (
    amount as amount,
)
from .evaluation.stored import (
    TrainedClassifier as TrainedClassifier,
    load_classifier as load_classifier,
)
from .evaluation.teacher_options import (
    TeacherOptions as TeacherOptions,
    TeacherTrainingOptions as TeacherTrainingOptions,
)
from .evaluation.teachers import (
    Teachers as Teachers,
    TeacherTraining as TeacherTraining,
)
from .hookspecs import (
    Register as Register,
    Run as Run,
    hookimpl as hookimpl,
)
from .networks.backbone import (
    Backbone as Backbone,
)
from .networks.compiled import (
    CompiledNetwork as CompiledNetwork,
    compiled_function as compiled_function,
    precision_context as precision_context,
)
from .networks.cosine import (
    CosineLinear as CosineLinear,
)
from .networks.network import (
    Network as Network,
    NetworkOptions as NetworkOptions,
)
from .networks.pool import (
    NetworkPool as NetworkPool,
)
from .networks.statistics import (
    LayerStatistics as LayerStatistics,
    class_statistics as class_statistics,
)
from .networks.stored import (
    Storable as Storable,
)
from .networks.trajectory import (
    Trajectory as Trajectory,
)
from .options import (
    BaseOptions as BaseOptions,
    Named as Named,
    name_of as name_of,
    option as option,
)
from .plugging.catalog import (
    register as register,
)
from .progress import (
    Display as Display,
)
from .ranks import (
    several_processes as several_processes,
    share_of_batch as share_of_batch,
    share_of_classes as share_of_classes,
    summed_over_processes as summed_over_processes,
)
from .runs.distilled import (
    DistilledSet as DistilledSet,
    load_distilled as load_distilled,
    save_distilled as save_distilled,
)
from .seeding import (
    generator as generator,
    seeded_by as seeded_by,
)
from .storage import (
    csv_text as csv_text,
    load_tensors as load_tensors,
    save_tensors as save_tensors,
    write_atomically as write_atomically,
    writing as writing,
)
from .training.augment import (
    Augmentation as Augmentation,
)
from .training.augmentation import (
    TrainingAugmentation as TrainingAugmentation,
)
from .training.crops import (
    CropFlip as CropFlip,
)
from .training.gradient import (
    gradient_in_chunks as gradient_in_chunks,
)
from .training.loop import (
    train as train,
)
from .training.losses import (
    Loss as Loss,
    LossSchedule as LossSchedule,
    WeightedLoss as WeightedLoss,
    cross_entropy as cross_entropy,
)
from .training.options import (
    TrainingOptions as TrainingOptions,
)
from .training.sets import (
    TrainingSet as TrainingSet,
    ViewLabels as ViewLabels,
)
from .training.soft_labels import (
    SoftLabels as SoftLabels,
)
from .training.trainer import (
    LastLayer as LastLayer,
    Trainer as Trainer,
)
