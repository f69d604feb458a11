from sklearn.utils.estimator_checks import parametrize_with_checks
from selmix import SelMixClassifier


@parametrize_with_checks([SelMixClassifier(steps=100)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)
