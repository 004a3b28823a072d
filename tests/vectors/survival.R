# Writes survival.json: what R's survival package finds in patients whose times are already bins.
# Run in this folder: Rscript survival.R
library(survival)

write_json <- function(x) {
  if (is.list(x)) return(paste0("{", paste0('"', names(x), '":', sapply(x, write_json), collapse = ","), "}"))
  paste0("[", paste(ifelse(is.finite(x), format(x, digits = 17, trim = TRUE, scientific = TRUE), "null"), collapse = ","), "]")
}

set.seed(1)
n <- 900
x <- round(rnorm(n), 1)
age <- sample(30:80, n, replace = TRUE)
arm <- rbinom(n, 1, 0.5)
site <- sample(1:4, n, replace = TRUE)
raw <- rexp(n, 0.05 * exp(0.6 * arm + 0.4 * x + 0.01 * age - 0.6))
left <- runif(n, 2, 60)
time <- pmin(ceiling(pmin(raw, left) / 5), 7)
event <- as.integer(raw <= left)

curve <- function(rows) {
  fit <- survfit(Surv(time[rows], event[rows]) ~ 1, conf.type = "log-log")
  list(time = fit$time, n = fit$n.risk, survival = fit$surv, std_error = fit$std.err * fit$surv, lower = fit$lower,
       upper = fit$upper, hazard = fit$cumhaz, hazard_std_error = fit$std.chaz)
}

cox <- function(ties) {
  fit <- coxph(Surv(time, event) ~ x + age + arm, ties = ties, control = coxph.control(eps = 1e-11, toler.chol = 1e-13, iter.max = 50))
  by_site <- coxph(Surv(time, event) ~ x + age + arm + strata(site), ties = ties,
                   control = coxph.control(eps = 1e-11, toler.chol = 1e-13, iter.max = 50))
  base <- basehaz(fit, centered = FALSE)
  list(coefficient = coef(fit), std_error = sqrt(diag(vcov(fit))), log_likelihood = fit$loglik,
       stratified = coef(by_site), stratified_std_error = sqrt(diag(vcov(by_site))), hazard = base$hazard,
       concordance = concordance(fit)$concordance, stratified_concordance = concordance(by_site)$concordance)
}

ridge <- coxph(Surv(time, event) ~ ridge(x, age, arm, theta = 3, scale = FALSE), ties = "efron",
               control = coxph.control(eps = 1e-11, toler.chol = 1e-13, iter.max = 50))
test <- survdiff(Surv(time, event) ~ arm)
found <- list(
  x = x, age = age, arm = arm, site = site, time = time, event = event,
  curves = list(`0` = curve(arm == 0), `1` = curve(arm == 1)), chi2 = test$chisq,
  efron = cox("efron"), breslow = cox("breslow"), ridge = coef(ridge)
)
writeLines(write_json(found), "survival.json")
