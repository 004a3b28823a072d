"""A panel says what it is, and nothing in a name is markup."""

from infl.pp import harmonise, panel_of


def test_panel_says_what_it_is(khan_sites):
    panel = harmonise(khan_sites, target="tumour_class")
    assert repr(panel) == "Panel: 2308 features, 4 classes of 'tumour_class', 83 observations at 5 sites"
    page = panel._repr_html_()
    assert page.count("<tr>") == 6 and "2308" in page and "class_3" in page
    assert len(panel.digest()) == 64
    fewer = panel_of({"site_1": khan_sites["site_1"]}, target="tumour_class")
    assert fewer.digest() == panel.digest()  # numbers of observations are a site's own business
    assert panel_of(khan_sites).digest() != panel.digest()


def test_names_are_escaped_in_notebooks(khan_sites):
    panel = panel_of({"<b>site": khan_sites["site_1"]})
    assert "<b>site" not in panel._repr_html_()
